variable "project" {
  description = "ID of the project, which has to be there, with billing."
  type        = string
}

variable "region" {
  description = "Region of everything: pictures that are far from the GPU make it wait, and are billed on their way."
  type        = string
  default     = "us-central1"
}

variable "repository" {
  description = "Name of the repository for images."
  type        = string
  default     = "whisker"
}

variable "namespace" {
  description = "Kubernetes namespace of the server and of training Jobs."
  type        = string
  default     = "default"
}

variable "cluster" {
  description = "Whether to make the cluster that serves; it costs money from that moment on."
  type        = bool
  default     = true
}

variable "builder_issuer" {
  description = "Who vouches for what starts builds: an OpenID Connect issuer, by default GitHub Actions."
  type        = string
  default     = "https://token.actions.githubusercontent.com"
}

variable "builder_subject" {
  description = "The one subject of the issuer's tokens that may be the builder, for GitHub such as repo:OWNER/NAME:ref:refs/heads/main; empty: nobody from outside."
  type        = string
  default     = ""
}

variable "deletion_protection" {
  description = "Whether `terraform destroy` stops at the cluster and at buckets that hold something."
  type        = bool
  default     = true
}
