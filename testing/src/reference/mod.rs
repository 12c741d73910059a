//! Slow and obvious readings of the specifications: tables in, decision out.
//!
//! Each is a page or two, written beside the chapter, and shares no code with the vocabulary's bits, the page-table engine
//! or the models that it judges: no caches, no types that could hide a mistake in common, one request at a time.

pub mod vtd;
