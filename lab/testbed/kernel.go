package testbed

import (
	"os"
	"strings"
)

// Kernel returns the version of the machine's kernel, "" if it does not say.
func Kernel() string {
	version, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(version))
}
