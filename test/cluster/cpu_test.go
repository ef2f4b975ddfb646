package cluster

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestANumberIsReadFromBothKindsOfCgroupFiles(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name, text, field string
		unit, want        time.Duration
	}{
		{"cpuacct.usage", "1500000\n", "", time.Nanosecond, 1500 * time.Microsecond},
		{"cpu.stat", "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n", "usage_usec", time.Microsecond, 1500 * time.Microsecond},
	} {
		file := filepath.Join(dir, tt.name)
		if err := os.WriteFile(file, []byte(tt.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := number(file, tt.field, tt.unit); err != nil || got != tt.want {
			t.Errorf("number(%s) = %v, %v, want %v", tt.name, got, err, tt.want)
		}
	}
}
