//! Oracles and machines that judge Portcullis.
