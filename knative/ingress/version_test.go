package ingress

import (
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"knative.dev/networking/pkg/apis/networking/v1alpha1"
	"knative.dev/networking/pkg/http/header"

	"github.com/limpet-project/limpet/knative/backend"
)

const demoHost = "demo.default.example.com"

// mustWait has the programmer take over an object that is to wait for a backend.
func (p *plane) mustWait(t *testing.T, i *v1alpha1.Ingress, service string, known bool) {
	t.Helper()
	err := p.Set(Object{Ingress: i})
	want := NotReadyError{Backend: backend.Name{Namespace: "default", Service: service, Port: "80"}, Known: known}
	if wait := new(NotReadyError); !errors.As(err, &wait) || *wait != want {
		t.Fatalf("Set() = %v, want %v", err, &want)
	}
}

// serves reports whether the routes in force lead to a revision, and probes are answered with the hash of that object.
func (p *plane) serves(revision string, i *v1alpha1.Ingress) bool {
	route, _ := p.external.Match(demoHost, "/")
	_, there := route.Backends[revision]
	hash, _ := p.answers.Load().probes.Hash(false, demoHost)
	return there && hash == hashOf(Object{Ingress: i})
}

func TestTheOldRevisionAnswersUntilTheNewOneHasAnEndpoint(t *testing.T) {
	p := newPlane(t)
	p.board.list("demo-00001", upstream(t, "demo-00001-a"))
	p.board.list("demo-00002") // the Service is known, its slices are not yet
	p.set(t, demo("demo", demoHost, "demo-00001"))
	p.Publish()
	next := demo("demo", demoHost, "demo-00002")
	p.mustWait(t, next, "demo-00002", true)
	p.Publish()
	if w := p.ask(demoHost); w.Code != http.StatusOK || w.Body.String() != "demo-00001-a" {
		t.Errorf("while demo-00002 has no endpoint the answer is %d %q, want demo-00001-a's", w.Code, w.Body)
	}
	if p.serves("demo-00002", next) {
		t.Error("probes are answered with the new hash while the old revision is served, want the old one")
	}
	if _, used := p.board.used[backend.Name{Namespace: "default", Service: "demo-00002", Port: "80"}]; !used {
		t.Errorf("in use are %v, want the backend that is waited for too", p.board.used)
	}
	p.board.list("demo-00002", upstream(t, "demo-00002-a"))
	p.set(t, next)
	p.Publish()
	if w := p.ask(demoHost); w.Code != http.StatusOK || p.inForce.Backends == nil || !p.serves("demo-00002", next) {
		t.Errorf("with an endpoint of demo-00002 the answer is %d %q, want 200 and the new hash", w.Code, w.Body)
	}
}

func TestARevisionWithoutEndpointsIsWaitedForSomeTimeOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		p.board.list("demo-00001", unreachable)
		p.board.list("demo-00002")
		p.set(t, demo("demo", demoHost, "demo-00001"))
		go p.Run(t.Context())
		synctest.Wait()
		next := demo("demo", demoHost, "demo-00002")
		p.mustWait(t, next, "demo-00002", true)
		time.Sleep(holdFor / 2)
		next.Spec.Rules[0].HTTP.Paths[0].AppendHeaders = map[string]string{"Knative-Serving-Namespace": "default"}
		p.mustWait(t, next, "demo-00002", true) // changes again: that does not make it wait longer
		time.Sleep(holdFor/2 - time.Millisecond)
		synctest.Wait()
		if p.serves("demo-00002", next) {
			t.Errorf("before %s have passed the new revision is in force, want the old one", holdFor)
		}
		time.Sleep(time.Millisecond + pace)
		synctest.Wait()
		if !p.serves("demo-00002", next) {
			t.Errorf("after %s the old revision is in force, want the new one", holdFor)
		}
		if got := <-p.changed; got != keyOf(next) {
			t.Errorf("told of %v, want %v: its status is to be looked at again", got, keyOf(next))
		}
		if err := p.Set(Object{Ingress: next}); err != nil {
			t.Errorf("Set() = %v once it is in force, want nil", err)
		}
	})
}

func TestWhatIsWaitedForIsForgottenWithTheChange(t *testing.T) {
	p := newPlane(t)
	p.board.list("demo-00001", unreachable)
	p.board.list("demo-00002")
	p.set(t, demo("demo", demoHost, "demo-00001"))
	p.Publish()
	p.mustWait(t, demo("demo", demoHost, "demo-00002"), "demo-00002", true)
	p.Publish()
	p.set(t, demo("demo", demoHost, "demo-00001"))
	p.Publish()
	if len(p.board.used) != 1 || !p.due().IsZero() {
		t.Errorf("after the change is taken back in use are %v, and something is due at %s, want demo-00001 and nothing", p.board.used, p.due())
	}
}

// canary returns an object that leads one percent to a second Service.
func canary() *v1alpha1.Ingress {
	i := demo("demo", demoHost, "demo-00001")
	for n := range i.Spec.Rules {
		path := &i.Spec.Rules[n].HTTP.Paths[0]
		stable := path.Splits[0]
		stable.Percent = 50
		young := stable
		young.ServiceName = "demo-00002"
		path.Splits = []v1alpha1.IngressBackendSplit{stable, young}
	}
	return i
}

func TestAMissingServiceTakesOnlyItsShareFromAnObjectThatIsNew(t *testing.T) {
	p := newPlane(t)
	p.board.list("demo-00001", upstream(t, "demo-00001-a"))
	i := canary()
	p.mustWait(t, i, "demo-00002", false)
	p.Publish()
	codes := make(map[int]int)
	for range 100 {
		codes[p.ask(demoHost).Code]++
	}
	if codes[http.StatusOK] < 20 || codes[http.StatusOK]+codes[http.StatusServiceUnavailable] != 100 {
		t.Errorf("100 requests were answered %v, want about half of them 200 and the others 503", codes)
	}
	if w := p.ask(demoHost, header.ProbeKey, header.ProbeValue, header.HashKey, header.HashValueOverride); w.Code == http.StatusOK {
		t.Error("a probe is answered 200 while a Service is missing, want 503")
	}
	if _, full := p.Program(keyOf(i)); full || !p.Failed(keyOf(i)) {
		t.Error("the object counts as served in full, want it to be waiting")
	}
	p.board.list("demo-00002", upstream(t, "demo-00002-a"))
	p.set(t, i)
	p.Publish()
	if _, full := p.Program(keyOf(i)); !full || !p.serves("demo-00002", i) {
		t.Error("with the Service there the object does not count as served in full")
	}
}

func TestAReplicaThatStartsWhileAServiceIsMissingServesTheRest(t *testing.T) {
	w := newWorld(t)
	w.service("demo-00001", "demo-00001-a")
	w.create(canary())
	r := w.start()
	r.answers("external", demoHost, 200, "demo-00001-a")
	w.waits("demo", "BackendNotReady")
	w.service("demo-00002", "demo-00002-a")
	w.ready("demo")
	r.answers("external", demoHost, 200, "demo-00002-a")
}

// A listener is backends of which somebody asks.
type listener struct {
	*board
	asked func()
}

func (l listener) Backend(n backend.Name) (backend.Backend, bool) {
	l.asked()
	return l.board.Backend(n)
}

func TestChangesOfAServiceAreHeardOfBeforeItIsLookedAt(t *testing.T) {
	p := newPlane(t)
	i := demo("demo", demoHost, "demo-00001")
	asked := 0
	p.o.Backends = listener{p.board, func() {
		asked++
		if users := p.Users(servicesOf(i)[0]); len(users) != 1 || !p.Failed(keyOf(i)) {
			t.Errorf("while the Service is looked at its users are %v, want the object, as one that waits", users)
		}
	}}
	if err := p.Set(Object{Ingress: i}); err == nil || asked == 0 {
		t.Errorf("Set() = %v after %d questions, want an unknown backend", err, asked)
	}
}
