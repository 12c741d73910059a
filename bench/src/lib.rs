//! Portcullis beside its peers.
