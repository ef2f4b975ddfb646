package diagnosis

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/knative/ingress"
	"github.com/limpet-project/limpet/knative/policy"
)

const (
	kpa = "kpa.autoscaling.knative.dev"
	hpa = "hpa.autoscaling.knative.dev"
)

// Protects against prototype defect 34: without the activator in the path affinity was silently off.
func TestWhatIsInTheWayIsFound(t *testing.T) {
	sessions := affinity.Policy{}.WithDefaults()
	flows := affinity.Policy{Revision: &affinity.RevisionAffinity{}}.WithDefaults()
	_, wrong := policy.Defaults{}.Policy(map[string]string{policy.SessionPathSegment: "0"})
	for _, tt := range []struct {
		name  string
		facts Facts
		want  []string // "reason: a part of the message"
	}{
		{name: "no affinity", facts: Facts{Revisions: []Revision{{"demo-00001", hpa, 211}}, MeshHidesPods: true}},
		{name: "a policy of nothing", facts: Facts{Policy: &affinity.Policy{}, Revisions: []Revision{{"demo-00001", hpa, 211}}}},
		{name: "the activator stays in the path", facts: Facts{Policy: sessions, Revisions: []Revision{{"demo-00001", kpa, -1}}}},
		{name: "no revision yet", facts: Facts{Policy: sessions}},
		{
			name: "it leaves the path", facts: Facts{Policy: sessions, Revisions: []Revision{{"demo-00001", kpa, 211}}},
			want: []string{"ActivatorNotInPath: target-burst-capacity is 211. Set the annotation autoscaling.knative.dev/target-burst-capacity: \"-1\""},
		},
		{
			name: "flows need it as well", facts: Facts{Policy: flows, Revisions: []Revision{{"demo-00001", kpa, 0}}},
			want: []string{"ActivatorNotInPath: target-burst-capacity is 0."},
		},
		{
			name: "it is never in the path", facts: Facts{Policy: sessions, Revisions: []Revision{{"demo-00001", hpa, -1}}},
			want: []string{"ActivatorNeverInPath: revision demo-00001 are not kept"},
		},
		{name: "of another's autoscaler nothing is known", facts: Facts{Policy: sessions, Revisions: []Revision{{"demo-00001", "keda.autoscaling.knative.dev", 211}}}},
		{
			name:  "each revision for itself",
			facts: Facts{Policy: sessions, Revisions: []Revision{{"demo-00001", kpa, -1}, {"demo-00002", kpa, 70.5}, {"demo-00003", hpa, 211}}},
			want:  []string{"ActivatorNotInPath: demo-00002", "ActivatorNeverInPath: demo-00003"},
		},
		{
			name: "the mesh hides pods", facts: Facts{Policy: sessions, MeshHidesPods: true, Revisions: []Revision{{"demo-00001", kpa, -1}}},
			want: []string{"PodsNotAddressable: enable-mesh-pod-addressability"},
		},
		{
			name: "wrong annotations are all that there is to say", facts: Facts{Wrong: wrong, MeshHidesPods: true, Revisions: []Revision{{"demo-00001", hpa, 0}}},
			want: []string{"AffinityMisconfigured: activator.knative.dev/sticky-session-path-segment: got \"0\", expected a whole number from 1 to 100"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Diagnose(tt.facts)
			good := len(got) == len(tt.want)
			for i := 0; good && i < len(got); i++ {
				reason, part, _ := strings.Cut(tt.want[i], ": ")
				good = got[i].Reason == reason && strings.Contains(got[i].Message, part)
			}
			if !good {
				t.Errorf("Diagnose(%+v) = %+v, want %q", tt.facts, got, tt.want)
			}
		})
	}
}

func TestWhatIsSaidIsBounded(t *testing.T) {
	f := Facts{Policy: affinity.Policy{}.WithDefaults()}
	for i := range 100 {
		f.Revisions = append(f.Revisions, Revision{fmt.Sprintf("demo-%05d", i), kpa, 211})
	}
	if got := Diagnose(f); len(got) != maxProblems {
		t.Errorf("Diagnose of 100 revisions has %d problems, want %d", len(got), maxProblems)
	}
	long := Diagnose(Facts{Wrong: errors.New(strings.Repeat("ä", 16<<10))})[0].Message
	if len(long) > maxMessage+len("…") || !utf8.ValidString(long) {
		t.Errorf("the message of a long error has %d bytes, valid %t, want %d at most", len(long), utf8.ValidString(long), maxMessage)
	}
}

func TestTheClassIsThatOfLimpetsIngress(t *testing.T) {
	if diff := cmp.Diff(ingress.Class, ownClass); diff != "" {
		t.Errorf("the class of Limpet's ingress (-want +got):\n%s", diff)
	}
}
