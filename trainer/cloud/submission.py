"""What is asked of the cloud besides the run itself: every flag of `trainer.submit`, checked when
made.
"""

import dataclasses
from dataclasses import dataclass

from trainer.cloud import budget, image, lint, machines
from trainer.config import Config
from trainer.errors import ConfigError
from whisker_ml.cli import setting


@dataclass(frozen=True)
class Submission:
    """Where, on what, for how long and for how much a run goes on.

    Raises:
        ConfigError: a value cannot work; the text names the flag, the value and what is expected.
    """

    project: str = setting("", "Google Cloud project that pays")
    region: str = setting("", "where the job runs, such as us-central1")
    image_uri: str = setting(
        "", "container image that holds the trainer, by digest; with --build by name and tag"
    )
    build: str = setting(
        "",
        "build the image from this checkout and push it first; empty: it is there",
        choices=image.KINDS,
    )
    platform: str = setting(
        "vertex",
        "a custom job of Vertex AI, or (--dry_run only) a Job of Kubernetes",
        choices=("vertex", "kubernetes"),
    )
    machine: str = setting(machines.DEFAULT_MACHINE, "machine type")
    accelerator: str = setting(machines.DEFAULT_ACCELERATOR, "accelerator type; empty: none")
    accelerator_count: int = setting(1, "accelerators in each machine")
    workers: int = setting(1, "machines that train together, all alike")
    spot: bool = setting(
        False,
        "machines that cost less and may be taken away; the job then goes on from its checkpoint",
    )
    service_account: str = setting("", "account that the job runs as; empty: the service's own")
    max_hours: float = setting(24.0, "hours after which the service ends the job, whoever watches")
    price_per_hour: float = setting(0.0, "what one worker costs, in your currency; 0: unknown")
    max_cost: float = setting(
        0.0,
        "what the job may cost: it is ended after max_cost / price_per_hour / workers hours; 0: no"
        " such limit",
    )
    display_name: str = setting(
        "whisker", "the job's name in the console; another name makes another job"
    )
    api_endpoint: str = setting(
        "", "host of the job service; empty: the region's; http://127.0.0.1:…: without TLS"
    )
    detach: bool = setting(False, "do not watch the job; so too where there is no terminal")
    dry_run: bool = setting(False, "print the job and send nothing")

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            choices, value = option.metadata["choices"], getattr(self, option.name)
            if choices and value not in choices:
                raise ConfigError(
                    f"--{option.name}={value}: expected"
                    f" {', '.join(choice for choice in choices if choice)}"
                )
        _ = self.budget
        image.require_buildable(self.build, self.image_uri)
        if self.platform == "kubernetes":
            self._require_kubernetes()
        elif self.project or self.region or not self.dry_run:
            lint.require_place(self.project, self.region)
        if (
            not self.dry_run
            and not self.build
            and self.image_uri
            and not image.is_pinned(self.image_uri)
        ):
            raise ConfigError(
                f"--image_uri={self.image_uri}: a tag can come to mean another image; give it by"
                f" digest, which gcloud artifacts docker images describe {self.image_uri}"
                " --format='value(image_summary.digest)' prints, or --build"
            )

    @property
    def budget(self) -> budget.Budget:
        """How long the job may run."""
        return budget.make(
            max_hours=self.max_hours,
            price_per_hour=self.price_per_hour,
            max_cost=self.max_cost,
            workers=self.workers,
        )

    def require_run(self, config: Config) -> None:
        """Refuses a run that these machines would lose.

        Raises:
            ConfigError: a restarted job could not go on.
        """
        if self.spot and (not config.run_dir or config.resume == "never"):
            raise ConfigError(
                "--spot: a job whose machine was taken away goes on in its run folder; give"
                " --run_dir=gs://… and leave out --resume=never"
            )

    def _require_kubernetes(self) -> None:
        if not self.dry_run:
            raise ConfigError(
                "--platform=kubernetes: sending is kubectl's; give --dry_run too, and pipe the"
                " output into kubectl create --filename=-"
            )
        if self.workers > 1:
            raise ConfigError(
                f"--workers={self.workers}: a Job of Kubernetes is one pod here; leave"
                " --workers out"
            )
