package reliability

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSpansAreReadFromAnExport(t *testing.T) {
	text := func(n byte, s string) []byte { return append([]byte{n<<3 | 2, byte(len(s))}, s...) }
	at := func(n byte, d time.Duration) []byte {
		b := []byte{n<<3 | 1, 0, 0, 0, 0, 0, 0, 0, 0}
		for i := range 8 {
			b[1+i] = byte(uint64(d) >> (8 * i))
		}
		return b
	}
	join := func(parts ...[]byte) string {
		var all []byte
		for _, p := range parts {
			all = append(all, p...)
		}
		return string(all)
	}
	resource := text(1, join(text(1, join(text(1, "k8s.pod.name"), text(2, join(text(1, "demo-00001-0")))))))
	one := text(2, join(text(2, "\x01"), text(4, "\x02"), text(5, waitSpan), []byte{6 << 3, 3}, at(7, time.Second), at(8, 2*time.Second)))
	message := text(1, join(resource, text(2, join(text(1, ""), one))))
	want := []span{{
		pod: "demo-00001-0", id: "\x01", parent: "\x02", name: waitSpan, start: time.Unix(1, 0), end: time.Unix(2, 0),
	}}
	got, err := parseSpans(message)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(span{})); diff != "" {
		t.Errorf("parseSpans() (-want +got):\n%s", diff)
	}
	if _, err := parseSpans(message[:len(message)-1]); err == nil {
		t.Error("parseSpans(half a message) = nil, want an error")
	}
}

// ms is a moment of a table.
func ms(n int) time.Time { return time.Unix(0, int64(n)*int64(time.Millisecond)) }

func TestAPodIsFullWhileItsContainerAnswers(t *testing.T) {
	const pod = "demo-00001-0"
	for _, tt := range []struct {
		name  string
		stays []stay
		limit int
		want  []queued
		most  int
	}{
		{
			"one after the other", []stay{{ms(0), ms(0), ms(10)}, {ms(12), ms(12), ms(20)}}, 1, nil, 1,
		},
		{
			"the answer has been read, and queue-proxy says later that it is over", []stay{{ms(0), ms(0), ms(10)}, {ms(11), ms(13), ms(20)}}, 1, nil, 1,
		},
		{
			"one more than the limit", []stay{{ms(0), ms(0), ms(10)}, {ms(4), ms(10), ms(20)}}, 1, []queued{{pod, ms(4), 6 * time.Millisecond}}, 1,
		},
		{
			"as many as the limit", []stay{{ms(0), ms(0), ms(10)}, {ms(4), ms(4), ms(20)}}, 2, nil, 2,
		},
		{
			"one that went away before it was admitted was never in the container",
			[]stay{{ms(0), ms(2), ms(2)}, {ms(3), ms(3), ms(9)}},
			1, nil, 1,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, most := full(map[string][]stay{pod: tt.stays}, tt.limit)
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(queued{})); diff != "" || most != tt.most {
				t.Errorf("full() = %d in a container at most, want %d; queued (-want +got):\n%s", most, tt.most, diff)
			}
		})
	}
}

func TestTheDeepestQueueIsThatOfOnePod(t *testing.T) {
	held := []queued{
		{"demo-00001-0", ms(0), 5 * time.Millisecond},
		{"demo-00001-0", ms(3), 5 * time.Millisecond},
		{"demo-00001-0", ms(6), time.Millisecond},
		{"demo-00001-1", ms(3), 7 * time.Millisecond},
	}
	depth, longest := deepest(held)
	if depth != 2 || longest != 7*time.Millisecond {
		t.Errorf("deepest() = %d, %v, want 2, 7ms", depth, longest)
	}
}

func TestTheContainersAnswerIsFoundBelowTheWait(t *testing.T) {
	const pod = "demo-00001-0"
	got := stays([]span{
		{pod: pod, id: "client", parent: "wait", name: "HTTP POST", start: ms(3), end: ms(9)},
		{pod: pod, id: "wait", parent: "proxy", name: waitSpan, start: ms(1), end: ms(2)},
		{pod: pod, id: "proxy", name: "kn.queueproxy.proxy", start: ms(0), end: ms(10)},
		{pod: pod, id: "alone", parent: "other", name: waitSpan, start: ms(4), end: ms(5)},
	})
	want := map[string][]stay{pod: {{ms(1), ms(2), ms(9)}, {ms(4), ms(5), ms(5)}}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(stay{})); diff != "" {
		t.Errorf("stays() (-want +got):\n%s", diff)
	}
}
