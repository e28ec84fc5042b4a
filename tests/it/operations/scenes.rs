pub const ALL: [&str; 0] = [];
