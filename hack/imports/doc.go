// Package imports holds the layers apart: its test fails when a package imports,
// directly or through others, what its place in the tree forbids.
package imports
