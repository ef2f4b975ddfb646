//go:build !linux

package main

import "os"

// terminal reports no terminal: connections are watched on Linux only.
func terminal(*os.File) (screen, bool) { return screen{}, false }
