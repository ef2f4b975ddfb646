package sticky

import (
	"cmp"
	"net/http"
	"os"
	"strings"
)

// revisionVariable is set by Knative in every container of a revision, to the revision's name.
const revisionVariable = "K_REVISION"

// Handler returns a handler that names the revision in every response and leaves everything else to next; see [Naming.Handler]. The
// revision is that of the environment variable K_REVISION, which Knative sets, at the time of this call.
func Handler(next http.Handler) http.Handler { return Naming{}.Handler(next) }

// A Naming says how a server names its revision. The zero Naming names K_REVISION in the header.
type Naming struct {
	// Tag is the tag by which Knative's Route addresses this revision. "" is the value of the environment variable K_REVISION, which is
	// right where tags are named like revisions. A value that is no tag (see [ValidTag]) names nothing.
	Tag string
	// Cookie is the name of a cookie that is set to the tag as well, where the request has not got it already. "" sets none, and so does
	// a value that cannot be a cookie's name. The cookie is for scripts of a page, which cannot read the page's own response header:
	// it lives as long as the browser does, for all paths of the host, with SameSite=Lax and, over https, Secure. Knative itself does
	// not route by cookies.
	Cookie string
}

// Handler returns a handler that names the revision in every response, before it calls next; nil is http.DefaultServeMux. It adds
// the header to Vary too, so that no cache gives the answer of one revision to clients of another. Next may change or delete both.
//
// Next gets the ResponseWriter as it is: flushing, hijacking and full duplex work as without. A next that hijacks the connection and
// writes the head of the response by itself has to write the headers that it finds in the ResponseWriter, or the response names nothing.
//
// Without a revision (K_REVISION is unset, as outside of Knative) Handler returns next.
func (n Naming) Handler(next http.Handler) http.Handler {
	if next == nil {
		next = http.DefaultServeMux
	}
	tag := cmp.Or(n.Tag, os.Getenv(revisionVariable))
	if !ValidTag(tag) {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(Header, tag)
		w.Header().Add("Vary", Header)
		if n.Cookie != "" && !hasCookie(r, n.Cookie, tag) {
			http.SetCookie(w, &http.Cookie{Name: n.Cookie, Value: tag, Path: "/", SameSite: http.SameSiteLaxMode, Secure: overTLS(r)})
		}
		next.ServeHTTP(w, r)
	})
}

// hasCookie reports whether the first cookie of that name, which is the one that scripts find, has the value.
func hasCookie(r *http.Request, name, value string) bool {
	c, err := r.Cookie(name)
	return err == nil && c.Value == value
}

// overTLS reports whether the client speaks TLS, with us or with Knative's ingress. A client that lies spoils its own cookie only.
func overTLS(r *http.Request) bool {
	return r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}
