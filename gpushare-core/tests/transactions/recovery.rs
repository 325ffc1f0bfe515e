//! Recovery where a person may have to decide.
