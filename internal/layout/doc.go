// Package layout holds the house to its plan: which folders there are, and who may import whom. It has
// no code but its test.
package layout
