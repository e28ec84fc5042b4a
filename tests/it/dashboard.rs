//! The dashboard, seen and used in a real browser.

mod access;
mod api;
mod ground;
mod live;
mod many;
mod pictures;
mod texts;
