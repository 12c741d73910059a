//! IOMMUs as device models.
