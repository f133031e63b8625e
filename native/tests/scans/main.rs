//! Every scan against brute force, on galleries that are kept twice.

mod gallery;
mod join;
mod search;
