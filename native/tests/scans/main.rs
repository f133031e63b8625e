//! Every scan against brute force, on galleries that are kept twice.

mod damage;
mod drops;
mod gallery;
mod pairs;
mod search;
