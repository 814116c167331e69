//! storage/record
