package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// terminal returns the size of a terminal, and whether the file is one that can be drawn on.
func terminal(f *os.File) (screen, bool) {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || os.Getenv("TERM") == "dumb" {
		return screen{}, false
	}
	if size.Row == 0 || size.Col == 0 { // it does not know
		return screen{rows: 24, columns: 80}, true
	}
	return screen{rows: int(size.Row), columns: int(size.Col)}, true
}
