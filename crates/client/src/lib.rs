//! A client of the manager.
