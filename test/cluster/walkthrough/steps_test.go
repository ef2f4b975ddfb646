package walkthrough

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/limpet-project/limpet/test/cluster/demo"
)

// Annotations as docs of the ingress name them.
const (
	policyAnnotation = "affinity.limpet.dev/policy"
	simplePrefix     = "activator.knative.dev/sticky-"
)

// stick replaces all affinity annotations of the Service: nil is the default, sessions by K-Session and revisions by K-Revision.
func (st *step) stick(annotations map[string]string) {
	args := []string{"annotate", "ksvc", service, "--overwrite"}
	o, err := st.e.Object(st.t.Context(), "serving.knative.dev/v1/Service", service)
	if err != nil {
		st.fail(err)
		return
	}
	for _, k := range slices.Sorted(maps.Keys(o.GetAnnotations())) {
		if _, keep := annotations[k]; !keep && (k == policyAnnotation || strings.HasPrefix(k, simplePrefix)) {
			args = append(args, k+"-")
		}
	}
	for _, k := range slices.Sorted(maps.Keys(annotations)) {
		args = append(args, k+"="+annotations[k])
	}
	if len(args) > 4 {
		st.kubectl(args...)
	}
}

// split sets the Service's traffic and waits until it is so.
func (st *step) split(weights map[string]int) {
	var traffic []map[string]any
	for _, r := range slices.Sorted(maps.Keys(weights)) {
		traffic = append(traffic, map[string]any{"revisionName": r, "percent": weights[r]})
	}
	text, err := json.Marshal(map[string]any{"spec": map[string]any{"traffic": traffic}})
	if err != nil {
		st.fail(err)
		return
	}
	st.kubectl("patch", "ksvc", service, "--type=merge", "-p", string(text))
	st.ready()
}

// sessions are the steps with one revision.
func (s *show) sessions(image string) {
	s.step("One pod keeps every count", func(st *step) {
		st.apply(s.service(image, 1).Manifest())
		st.ready()
		answers := st.ask(5, demo.Request{Header: map[string]string{"K-Session": "alice"}})
		st.expect("one pod, and its count goes up by one", onePod(answers))
	})
	s.step("Three pods without affinity: the counts of a session stall", func(st *step) {
		three := s.service(image, 3)
		three.Annotations = map[string]string{policyAnnotation: "off"}
		st.apply(three.Manifest())
		st.ready()
		st.e.WaitFor(2*time.Minute, "three pods of demo-00002", st.podsReady("demo-00002", 3))
		st.settled(12, demo.Request{Header: map[string]string{"K-Session": "bob"}}, "several pods, and each begins at 1", severalPods)
	})
	ways := []struct {
		title   string
		sticky  map[string]string
		request demo.Request
	}{
		{"A session by the header K-Session, the default", nil, demo.Request{Header: map[string]string{"K-Session": "carol"}}},
		{
			"A session by another header",
			map[string]string{simplePrefix + "session-header-name": "X-User"},
			demo.Request{Header: map[string]string{"X-User": "dave"}},
		},
		{
			"A session by a query parameter",
			map[string]string{simplePrefix + "session-query-parameter": "session"},
			demo.Request{Path: "/incr?session=erin"},
		},
		{
			"A session by a segment of the path",
			map[string]string{simplePrefix + "session-path-segment": "2"},
			demo.Request{Path: "/incr/frank"},
		},
	}
	for _, w := range ways {
		s.step(w.title, func(st *step) {
			st.stick(w.sticky)
			st.settled(12, w.request, "one pod, and its count goes up by one", onePod)
		})
	}
}

// podsReady returns a check that so many pods of a revision are ready and no other is left.
func (st *step) podsReady(revision string, want int) func(context.Context) error {
	return func(ctx context.Context) error {
		pods, err := st.e.Pods(ctx, "serving.knative.dev/revision="+revision)
		if err != nil {
			return err
		}
		ready := 0
		for _, p := range pods {
			if st.e.PodReady(ctx, p.Name) == nil {
				ready++
			}
		}
		if ready != want || len(pods) != want {
			return fmt.Errorf("%s has %d pods, %d ready", revision, len(pods), ready)
		}
		return nil
	}
}

// revisions are the steps with two revisions and no sessions.
func (s *show) revisions() {
	s.step("Two revisions, half each, without affinity", func(st *step) {
		const patch = `{"spec":{"template":{"spec":{"containers":[{"image":"%s","ports":[{"containerPort":8080}],"env":[` +
			`{"name":"COUNTER_LISTEN","value":"0.0.0.0:8080"},{"name":"COUNTER_SESSION_SEGMENT","value":"2"},` +
			`{"name":"COUNTER_REVISION","value":"next"}]}]}}}}`
		st.stick(map[string]string{policyAnnotation: "off"})
		st.kubectl("patch", "ksvc", service, "--type=merge", "-p", fmt.Sprintf(patch, st.e.Image(counter)))
		st.ready()
		st.split(map[string]int{"demo-00002": 50, "demo-00003": 50})
		st.settled(40, demo.Request{}, "both revisions, neither less than 4 of 40 (chance below 1 in 10 million)", halves(4))
	})
	ways := []struct {
		title   string
		sticky  map[string]string
		request func(flow string) demo.Request
	}{
		{
			"Revision by the header K-Revision, the default", nil,
			func(f string) demo.Request { return demo.Request{Header: map[string]string{"K-Revision": f}} },
		},
		{
			"Revision by another header",
			map[string]string{simplePrefix + "revision-header-name": "X-Tenant"},
			func(f string) demo.Request { return demo.Request{Header: map[string]string{"X-Tenant": f}} },
		},
		{
			"Revision by a query parameter",
			map[string]string{simplePrefix + "revision-query-parameter": "tenant"},
			func(f string) demo.Request { return demo.Request{Path: "/incr?tenant=" + f} },
		},
		{
			"Revision by a segment of the path",
			map[string]string{simplePrefix + "revision-path-segment": "2"},
			func(f string) demo.Request { return demo.Request{Path: "/incr/" + f} },
		},
	}
	for _, w := range ways {
		s.step(w.title, func(st *step) {
			st.stick(w.sticky)
			st.settled(16, w.request("tenant-00001"), "one revision, whose pods share the requests",
				func(a []demo.Answer) error { return errors.Join(oneRevision(a), severalPods(a)) })
			firsts := st.first(40, func(i int) demo.Request { return w.request(fmt.Sprintf("tenant-%05d", i+100)) })
			st.expect("40 other tenants are spread over both revisions", halves(4)(firsts))
		})
	}
}

// halves returns a check that two revisions answered, neither less than so many times.
func halves(least int) func([]demo.Answer) error {
	return func(answers []demo.Answer) error {
		counts := demo.Revisions(answers)
		if len(counts) != 2 {
			return fmt.Errorf("%d revisions answered: %v", len(counts), counts)
		}
		for _, n := range counts {
			if n < least {
				return fmt.Errorf("shares %v, want at least %d each", counts, least)
			}
		}
		return nil
	}
}

// first sends one request of each of n series and shows how many each revision answered.
func (st *step) first(n int, request func(i int) demo.Request) []demo.Answer {
	fmt.Printf("$ %s   # and %d others\n", request(0).Curl(st.address, st.host), n-1)
	client := st.client()
	var answers []demo.Answer
	for i := range n {
		a, err := client.Series(st.t.Context(), 1, request(i))
		if err != nil {
			st.fail(err)
			break
		}
		answers = append(answers, a...)
	}
	fmt.Printf("answers by revision: %v\n", demo.Revisions(answers))
	return answers
}

// both is the step with sessions over a split.
func (s *show) both() {
	s.step("A session over a split stays on one pod", func(st *step) {
		st.stick(nil)
		st.settled(20, demo.Request{Header: map[string]string{"K-Session": "grace"}}, "one pod, and its count goes up by one", onePod)
	})
}

// changes are the steps in which what holds a session goes away.
func (s *show) changes() {
	request := demo.Request{Header: map[string]string{"K-Session": "heidi"}}
	var held demo.Answer
	s.step("A killed pod: the session moves within its revision", func(st *step) {
		if answers := st.ask(3, request); len(answers) > 0 {
			held = answers[0]
		}
		st.kubectl("delete", "pod", held.Pod, "--force", "--grace-period=0", "--wait=false")
		st.settled(6, request, "another pod of "+held.Revision()+", and its count goes up by one", func(a []demo.Answer) error {
			switch {
			case a[0].Pod == held.Pod:
				return fmt.Errorf("%s still answers", held.Pod)
			case a[0].Revision() != held.Revision():
				return fmt.Errorf("the session moved from %s to %s", held.Revision(), a[0].Revision())
			}
			return onePod(a)
		})
	})
	s.step("A revision without traffic: the session moves to the other one", func(st *step) {
		other := map[string]string{"demo-00002": "demo-00003", "demo-00003": "demo-00002"}[held.Revision()]
		st.split(map[string]int{other: 100})
		st.settled(6, request, "a pod of "+other+", and its count goes up by one", func(a []demo.Answer) error {
			if a[0].Revision() != other {
				return fmt.Errorf("%s answers", a[0].Revision())
			}
			return onePod(a)
		})
		held.Pod = other + "-deployment-"
	})
	s.step("Scaled down to one pod, the revision keeps serving its sessions", func(st *step) { st.scaleDown(held.Revision()) })
}

// scaleDown takes away what keeps three pods and asks until one is left.
func (st *step) scaleDown(revision string) {
	const patch = `{"metadata":{"annotations":{"autoscaling.knative.dev/min-scale":"1"}}}`
	st.kubectl("patch", "revision", revision, "--type=merge", "-p", patch)
	client := st.client()
	request := func(i int) demo.Request {
		return demo.Request{Header: map[string]string{"K-Session": fmt.Sprintf("user-%05d", i)}}
	}
	fmt.Printf("$ %s   # and 9 others, for ten seconds and more\n", request(0).Curl(st.address, st.host))
	asked, began := 0, time.Now()
	check := st.podsReady(revision, 1)
	left := errors.New("not looked at")
	for (left != nil || time.Since(began) < 10*time.Second) && time.Since(began) < 5*time.Minute {
		for i := range 10 {
			asked++
			if _, err := client.Series(st.t.Context(), 1, request(i)); err != nil {
				st.fail(fmt.Errorf("request %d: %w", asked, err))
				return
			}
		}
		pause(st.t.Context(), 50*time.Millisecond)
		left = check(st.t.Context())
	}
	fmt.Printf("%d requests answered meanwhile\n", asked)
	st.expect("every request is answered, and one pod is left, beside those that end when their sessions' time is over", left)
	st.settled(4, demo.Request{Header: map[string]string{"K-Session": "ivan"}}, "a new session is on the pod that is left", onePod)
}

// weights are the steps in which a canary grows.
func (s *show) weights() {
	for _, mode := range []string{"pinned", "proportional"} {
		s.step("A canary grows from 5 to 50 percent, revisions "+mode, func(st *step) { st.grow(mode) })
	}
}

// heard is how long it takes until every activator has heard of a change, which the Service does not wait for before it is ready.
const heard = 5 * time.Second

// grow asks as 400 tenants before and after the canary has grown.
func (st *step) grow(mode string) {
	const tenants, canary, stable = 400, "demo-00003", "demo-00002"
	st.stick(map[string]string{policyAnnotation: "revision: {from: [{header: X-Tenant}], mode: " + mode + "}"})
	st.split(map[string]int{stable: 95, canary: 5})
	pause(st.t.Context(), heard)
	request := func(i int) demo.Request {
		return demo.Request{Header: map[string]string{"X-Tenant": fmt.Sprintf("%s-%05d", mode, i)}}
	}
	before := st.first(tenants, request)
	st.split(map[string]int{stable: 50, canary: 50})
	pause(st.t.Context(), heard)
	after := st.first(tenants, request)
	fresh := st.first(tenants, func(i int) demo.Request { return request(tenants + i) })
	if st.bad != nil {
		return
	}
	grown, back := 0, 0
	for i := range before {
		switch from, to := before[i].Revision(), after[i].Revision(); {
		case from == stable && to == canary:
			grown++
		case from == canary && to == stable:
			back++
		}
	}
	fmt.Printf("of %d tenants %d moved to the canary and %d back\n", tenants, grown, back)
	share := demo.Revisions(before)[canary]
	// 400 tenants at 5% are 20, standard deviation 4.4; at 50% they are 200, standard deviation 10; a move of 45% is 180. Each is outside
	// of what is expected once in two million runs or less often.
	st.expect("at 5%, 2 to 47 of 400 tenants are on the canary", between(share, 2, 47))
	st.expect("of new tenants 150 to 250 are on the canary at 50%", between(demo.Revisions(fresh)[canary], 150, 250))
	if mode == "pinned" {
		st.expect("pinned: nobody moved", between(grown+back, 0, 0))
		return
	}
	st.expect("proportional: 130 to 230 tenants moved to the canary", between(grown, 130, 230))
	st.expect("proportional: none moved back", between(back, 0, 0))
}

func between(got, least, most int) error {
	if got < least || got > most {
		return fmt.Errorf("got %d, want %d to %d", got, least, most)
	}
	return nil
}
