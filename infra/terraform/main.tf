# What Whisker needs of an empty project: buckets and a registry for images. Who may do what: identities.tf; what serves:
# cluster.tf. Resources and their arguments are those of hashicorp/google 6.50
# (registry.terraform.io/providers/hashicorp/google/6.50.0/docs/resources/, a page for each resource).
terraform {
  required_version = ">= 1.5"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 6.50"
    }
  }
}

provider "google" {
  project = var.project
  region  = var.region
}

data "google_project" "this" {
  depends_on = [google_project_service.needed]
}

resource "google_project_service" "needed" {
  for_each = toset([
    "aiplatform.googleapis.com",
    "artifactregistry.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "container.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "logging.googleapis.com",
    "ondemandscanning.googleapis.com",
    "storage.googleapis.com",
    "sts.googleapis.com",
  ])

  service = each.key
  # Others may use them too.
  disable_on_destroy = false
}

locals {
  # Days for which what was overwritten or deleted can still be brought back; each day of it is stored, and paid for.
  buckets = {
    # Pictures and runs. Checkpoints are replaced every minute.
    data = 7
    # The model store. models.config is overwritten at every promotion.
    models = 90
    # Sources of builds.
    builds = 1
  }
}

resource "google_storage_bucket" "all" {
  for_each = local.buckets

  name                        = "${var.project}-whisker-${each.key}"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = !var.deletion_protection

  versioning {
    enabled = true
  }

  # The service's own way to keep what was deleted, for a week at least and at the same price: versions do it here.
  soft_delete_policy {
    retention_duration_seconds = 0
  }

  lifecycle_rule {
    condition {
      days_since_noncurrent_time = each.value
      with_state                 = "ARCHIVED"
    }
    action {
      type = "Delete"
    }
  }

  # An upload that was broken off leaves parts, which are invisible and paid for.
  lifecycle_rule {
    condition {
      age = 1
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }

  depends_on = [google_project_service.needed]
}

resource "google_artifact_registry_repository" "images" {
  location      = var.region
  repository_id = var.repository
  format        = "DOCKER"

  # Layers of the build's cache that a newer cache has replaced. Builds' own images keep their tags, and stay.
  cleanup_policies {
    id     = "replaced"
    action = "DELETE"
    condition {
      tag_state  = "UNTAGGED"
      older_than = "2592000s"
    }
  }

  depends_on = [google_project_service.needed]
}
