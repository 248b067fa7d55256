//! Shapes that every layer repeats.

/// The doors to the service within that tower's users expect of a layer's service.
macro_rules! inner_service {
    ($inner:ident) => {
        /// The inner service.
        pub const fn get_ref(&self) -> &$inner {
            &self.inner
        }

        /// The inner service.
        pub const fn get_mut(&mut self) -> &mut $inner {
            &mut self.inner
        }

        /// The inner service.
        pub fn into_inner(self) -> $inner {
            self.inner
        }
    };
}

pub(crate) use inner_service;
