output "buckets" {
  description = "Buckets for pictures and runs, for models, and for the sources of builds."
  value       = { for name, bucket in google_storage_bucket.all : name => bucket.name }
}

output "images" {
  description = "What names of images begin with."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"
}

output "trainer" {
  description = "For --service_account of whisker-submit."
  value       = google_service_account.trainer.email
}

output "builder" {
  description = "For --service-account of gcloud builds submit, and for the issuer's side of federation."
  value       = google_service_account.builder.email
}

output "federation" {
  description = "The provider that the issuer's side of federation names; empty without one."
  value       = one(google_iam_workload_identity_pool_provider.builders[*].name)
}
