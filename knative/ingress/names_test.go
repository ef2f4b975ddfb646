package ingress

import (
	"testing"

	"knative.dev/networking/pkg/apis/networking/v1alpha1"
)

func TestAServiceIsNamedAfterRouteTagPathAndHeaders(t *testing.T) {
	const tagHeader = "Knative-Serving-Tag"
	seen := make(map[string]string)
	for _, c := range []struct {
		name    string
		tag     string
		path    string
		headers map[string]string
		want    string
	}{
		{name: "default traffic", want: "shop"},
		{name: "a path of the default traffic", path: "/blue", want: "shop//blue"},
		{name: "a tag's host", tag: "blue", want: "shop/blue"},
		{name: "a path of a tag's host", tag: "blue", path: "/cart/", want: "shop/blue/cart"},
		{name: "two segments of the default traffic", path: "/blue/cart", want: "shop//blue/cart"},
		{name: "a tag's header", headers: map[string]string{tagHeader: "green"}, want: "shop/green"},
		{name: "another tag's header at a tag's host", tag: "blue", headers: map[string]string{tagHeader: "red"}, want: "shop/red"},
		{name: "a tag that looks like a path", headers: map[string]string{tagHeader: "blue/cart"}, want: "shop/blue%2Fcart"},
		{name: "another header", headers: map[string]string{"x-tenant": "acme"}, want: "shop?X-Tenant=acme"},
		{
			name: "several headers and a path", path: "/cart", headers: map[string]string{"X-Tenant": "a&b=c", "X-Beta": "1", tagHeader: "blue"},
			want: "shop/blue/cart?X-Beta=1&X-Tenant=a%26b%3Dc",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := v1alpha1.HTTPIngressPath{Path: c.path, Headers: map[string]v1alpha1.HeaderMatch{}}
			for name, value := range c.headers {
				p.Headers[name] = v1alpha1.HeaderMatch{Exact: value}
			}
			claim, err := newClaim(&p)
			if err != nil {
				t.Fatal(err)
			}
			got := claim.serviceName("shop", c.tag)
			if got != c.want {
				t.Errorf("serviceName(shop, %q) = %q, want %q", c.tag, got, c.want)
			}
			if other, taken := seen[got]; taken {
				t.Errorf("%q is also the name for %s", got, other)
			}
			seen[got] = c.name
		})
	}
}

func TestAnIngressIsNamedAfterItsRoute(t *testing.T) {
	for _, c := range []struct {
		name   string
		labels map[string]string
		want   string
	}{
		{"no Route", nil, "shop-ingress"},
		{"a Route", map[string]string{"serving.knative.dev/route": "shop"}, "shop"},
		{
			"a DomainMapping with a label of its user's",
			map[string]string{"serving.knative.dev/route": "shop", "serving.knative.dev/domainMappingUID": "7f1b1f0e"},
			"shop-ingress",
		},
	} {
		i := &v1alpha1.Ingress{}
		i.Name, i.Labels = "shop-ingress", c.labels
		if got := routeName(i); got != c.want {
			t.Errorf("%s: routeName() = %q, want %q", c.name, got, c.want)
		}
	}
}
