//! Intel VT-d (Virtualization Technology for Directed I/O, revision 5).
