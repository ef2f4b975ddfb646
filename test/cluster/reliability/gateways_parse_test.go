package reliability

import "testing"

func TestAConnectionIsReadFromTheKernelsTable(t *testing.T) {
	const line = "tcp      6 117 TIME_WAIT src=10.210.0.1 dst=10.210.200.5 sport=42312 dport=80 " +
		"src=10.210.16.9 dst=10.210.0.1 sport=8080 dport=42312 [ASSURED] mark=0 use=1"
	port, pod, ok := connection(line)
	if port != 42312 || pod != "10.210.16.9" || !ok {
		t.Errorf("connection(%q) = %d, %q, %v, want 42312, 10.210.16.9, true", line, port, pod, ok)
	}
	if _, _, ok := connection("conntrack v1.4.8 (conntrack-tools): 12 flow entries have been shown."); ok {
		t.Error("connection(a summary) = true, want false")
	}
}
