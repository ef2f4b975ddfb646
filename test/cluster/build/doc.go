// Package build makes the binaries of a test cluster from their Go modules and keeps them in a cache outside the tree.
//
// A folder of the cache is named by what it was built from and is complete or absent, so that several processes may build at
// once and an interrupted build goes on where it stopped. Nothing is downloaded but Go modules, whose sums are pinned by
// the go.sum of each group in test/cluster/tools. Old folders are never removed: the cache may be deleted at any time.
//
// Start with [Parts] and [Cache.Build].
package build
