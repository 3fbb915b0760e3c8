//! Back ends that are not as they should be.
