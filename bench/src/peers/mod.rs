//! Other ways to split connections, configured to do the same.
