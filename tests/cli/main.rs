//! `uspcache` seen from outside, on stores that the store's own engine has made: no httpd is needed.

#![forbid(unsafe_code)]

mod harm;
mod pages;
mod shop;
mod store;
