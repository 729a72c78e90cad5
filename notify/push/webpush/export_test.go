package webpush

// Public tells public addresses from others.
var Public = public
