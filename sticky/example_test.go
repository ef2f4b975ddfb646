package sticky_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/limpet-project/limpet/sticky"
)

// A server on Knative needs one line: K_REVISION is in its environment.
func ExampleHandler() {
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") })

	server := &http.Server{Addr: ":8080", Handler: sticky.Handler(hello)}
	_ = server // ListenAndServe
}

// Where tags are not named like revisions, or not on Knative, the server is told its tag.
func ExampleNaming() {
	naming := sticky.Naming{Tag: "blue", Cookie: "knative-serving-tag"}
	server := httptest.NewServer(naming.Handler(http.NotFoundHandler()))
	defer server.Close()

	resp, err := http.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(resp.Header.Get(sticky.Header))
	fmt.Println(resp.Header.Get("Set-Cookie"))
	// Output:
	// blue
	// knative-serving-tag=blue; Path=/; SameSite=Lax
}

// The second request goes where the first was processed. The server stands for Knative: it goes by the tag, and says which it was.
func ExampleSession() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		revision := r.Header.Get(sticky.Header)
		if revision == "" {
			revision = "demo-rev2" // the choice of the split
		}
		w.Header().Set(sticky.Header, revision)
		fmt.Fprint(w, revision)
	}))
	defer server.Close()

	client := &http.Client{Transport: &sticky.Session{}}
	for n := 1; n <= 2; n++ {
		resp, err := client.Get(server.URL)
		if err != nil {
			fmt.Println(err)
			return
		}
		revision, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("request %d was processed by revision %s\n", n, revision)
	}
	// Output:
	// request 1 was processed by revision demo-rev2
	// request 2 was processed by revision demo-rev2
}

// Each user of a program has a session, and all share the connections.
func ExampleSession_users() {
	connections := &http.Transport{MaxIdleConnsPerHost: 100}
	alice := &http.Client{Transport: &sticky.Session{Base: connections}}
	bob := &http.Client{Transport: &sticky.Session{Base: connections}}
	fmt.Println(alice.Transport != bob.Transport)
	// Output: true
}
