//! Clients and servers that make the load, as processes that are told what to do.
