//! What people write → typed values with source spans: pipelines, stage manifests, the dataset registry, templates.
