//! Damage of every kind to every kind of file, and folders of older formats: the broker starts, says what is wrong, and
//! serves everything outside the damage.

mod files;
mod folder;
mod formats;
mod start_up;
mod tools;
