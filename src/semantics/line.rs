//! A short text that is put together without the heap: field values of an answer.

/// A text of up to `N` bytes; what does not fit is left out.
pub struct Line<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Line<N> {
    /// An empty text.
    pub fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    /// Appends `text` if it fits.
    pub fn push(&mut self, text: &str) -> &mut Self {
        if let Some(place) = self.bytes.get_mut(self.len..self.len + text.len()) {
            place.copy_from_slice(text.as_bytes());
            self.len += text.len();
        }
        self
    }

    /// Appends a number in decimal digits if it fits.
    pub fn push_number(&mut self, number: u64) -> &mut Self {
        self.push(itoa::Buffer::new().format(number))
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl<const N: usize> Default for Line<N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_there_and_what_does_not_is_left_out() {
        let mut line = Line::<8>::new();
        line.push("ab").push_number(12345).push("cd").push("e");
        assert_eq!(line.as_bytes(), b"ab12345e");
    }
}
