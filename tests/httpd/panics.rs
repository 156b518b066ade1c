//! What the border to C does with a panic: the module's own guard, in a function that C could call.

#[path = "../../src/ffi/guard.rs"]
mod guard;

extern "C" fn hook(is_broken: bool) -> i32 {
    guard::catch(500, || {
        assert!(!is_broken, "a hook is broken");
        0
    })
}

#[test]
fn a_panic_in_a_hook_ends_at_the_border() {
    assert_eq!((hook(false), hook(true), hook(false)), (0, 500, 0));
}
