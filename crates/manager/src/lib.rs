//! The manager: who may touch what.
