# One account per role. The trainer publishes too, inside its job; nobody else writes models. On Kubernetes the accounts
# are Kubernetes' own, named directly (cloud.google.com/kubernetes-engine/docs/how-to/workload-identity): no key exists
# anywhere. Roles are granted on the one thing that they are needed for; on the project only where nothing smaller takes
# them: writing logs, scanning, starting builds and jobs.
locals {
  # Pods of the cluster, by the name of their service account.
  pods = "principal://iam.googleapis.com/projects/${data.google_project.this.number}/locations/global/workloadIdentityPools/${var.project}.svc.id.goog/subject/ns/${var.namespace}/sa"
}

# Trainer: reads pictures, writes runs, publishes models.
resource "google_service_account" "trainer" {
  account_id   = "whisker-trainer"
  display_name = "Whisker: training jobs"

  depends_on = [google_project_service.needed]
}

resource "google_storage_bucket_iam_member" "trainer" {
  for_each = toset(["data", "models"])

  bucket = google_storage_bucket.all[each.key].name
  role   = "roles/storage.objectUser"
  member = google_service_account.trainer.member
}

resource "google_storage_bucket_iam_member" "trainer_pods" {
  for_each = toset(var.cluster ? ["data", "models"] : [])

  bucket = google_storage_bucket.all[each.key].name
  role   = "roles/storage.objectUser"
  member = "${local.pods}/whisker-trainer"

  # Its pool of identities comes with the first cluster.
  depends_on = [google_container_cluster.serving]
}

# Server: reads models, and nothing else.
resource "google_storage_bucket_iam_member" "server_pods" {
  count = var.cluster ? 1 : 0

  bucket = google_storage_bucket.all["models"].name
  role   = "roles/storage.objectViewer"
  member = "${local.pods}/whisker-serving"

  depends_on = [google_container_cluster.serving]
}

# Builder: reads its sources, pushes images, scans, submits jobs that run as the trainer.
resource "google_service_account" "builder" {
  account_id   = "whisker-builder"
  display_name = "Whisker: builds"

  depends_on = [google_project_service.needed]
}

resource "google_storage_bucket_iam_member" "builder" {
  bucket = google_storage_bucket.all["builds"].name
  role   = "roles/storage.objectUser"
  member = google_service_account.builder.member
}

# `gcloud builds submit` looks whether its bucket is there, and trainer.submit whether buckets are in the job's region;
# the roles that hold this permission ready-made show what is in a bucket, too.
resource "google_project_iam_custom_role" "bucket_lookup" {
  role_id     = "whiskerBucketLookup"
  title       = "Whisker: sees that a bucket is there, and where"
  permissions = ["storage.buckets.get"]

  depends_on = [google_project_service.needed]
}

resource "google_storage_bucket_iam_member" "builder_lookup" {
  for_each = local.buckets

  bucket = google_storage_bucket.all[each.key].name
  role   = google_project_iam_custom_role.bucket_lookup.name
  member = google_service_account.builder.member
}

resource "google_artifact_registry_repository_iam_member" "builder" {
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.builder.member
}

resource "google_project_iam_custom_role" "builder" {
  role_id = "whiskerBuilder"
  title   = "Whisker: starts builds and submits training jobs"
  permissions = [
    "aiplatform.customJobs.create",
    "aiplatform.customJobs.list",
    "cloudbuild.builds.create",
    "cloudbuild.builds.get",
    # `gcloud builds submit` calls the service in the project's name.
    "serviceusage.services.use",
  ]

  depends_on = [google_project_service.needed]
}

resource "google_project_iam_member" "builder" {
  for_each = {
    logs   = "roles/logging.logWriter"
    scans  = "roles/ondemandscanning.admin"
    starts = google_project_iam_custom_role.builder.name
  }

  project = var.project
  role    = each.value
  member  = google_service_account.builder.member
}

# A build runs as the builder, a job as the trainer: whoever starts one has to be allowed to.
resource "google_service_account_iam_member" "builder_acts" {
  for_each = {
    builder = google_service_account.builder.name
    trainer = google_service_account.trainer.name
  }

  service_account_id = each.value
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.builder.member
}

# Workload identity federation: one subject of one issuer may be the builder, without a key.
resource "google_iam_workload_identity_pool" "builders" {
  count = var.builder_subject == "" ? 0 : 1

  workload_identity_pool_id = "whisker-builders"
  depends_on                = [google_project_service.needed]
}

resource "google_iam_workload_identity_pool_provider" "builders" {
  count = var.builder_subject == "" ? 0 : 1

  workload_identity_pool_id          = google_iam_workload_identity_pool.builders[0].workload_identity_pool_id
  workload_identity_pool_provider_id = "issuer"
  attribute_mapping                  = { "google.subject" = "assertion.sub" }
  # GitHub is one issuer for everybody: tokens of others end here already.
  attribute_condition = "assertion.sub == '${var.builder_subject}'"

  oidc {
    issuer_uri = var.builder_issuer
  }
}

resource "google_service_account_iam_member" "federated_builder" {
  count = var.builder_subject == "" ? 0 : 1

  service_account_id = google_service_account.builder.name
  role               = "roles/iam.workloadIdentityUser"
  member             = "principal://iam.googleapis.com/${google_iam_workload_identity_pool.builders[0].name}/subject/${var.builder_subject}"
}
