# Where infra/kubernetes runs: Autopilot brings workload identity and enforces network policies, and bills what pods ask
# for, and a fee for the cluster (cloud.google.com/kubernetes-engine/docs/concepts/autopilot-overview).
resource "google_container_cluster" "serving" {
  count = var.cluster ? 1 : 0

  name                = "whisker"
  location            = var.region
  enable_autopilot    = true
  deletion_protection = var.deletion_protection

  # Its machines are nobody special, in place of the project's default account.
  cluster_autoscaling {
    auto_provisioning_defaults {
      service_account = google_service_account.nodes[0].email
      oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
    }
  }

  depends_on = [google_project_service.needed, google_project_iam_member.nodes]
}

# Machines of the cluster: pull images, and write their own logs and metrics.
resource "google_service_account" "nodes" {
  count = var.cluster ? 1 : 0

  account_id   = "whisker-nodes"
  display_name = "Whisker: machines of the cluster"

  depends_on = [google_project_service.needed]
}

resource "google_project_iam_member" "nodes" {
  count = var.cluster ? 1 : 0

  project = var.project
  role    = "roles/container.defaultNodeServiceAccount"
  member  = google_service_account.nodes[0].member
}

resource "google_artifact_registry_repository_iam_member" "nodes" {
  count = var.cluster ? 1 : 0

  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.nodes[0].member
}
