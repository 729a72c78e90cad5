package api

// Decode is the frame decoder, for fuzzing.
var Decode = decode
