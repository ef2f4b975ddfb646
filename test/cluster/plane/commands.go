package plane

// Names of the components, which are also names of logs and of what the control socket acts on.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	Containerd        = "containerd"
	Kubelet           = "kubelet"
	Proxy             = "kube-proxy"
	Registry          = "registry"
)

// command returns the command line of a component.
func (s scope) command(name string) []string {
	var flags []string
	switch name {
	case Etcd:
		flags = s.etcd()
	case APIServer:
		flags = s.apiServer()
	case ControllerManager:
		flags = append(s.client(name), "--use-service-account-credentials=true", "--service-account-private-key-file="+s.pki("sa.key"),
			"--root-ca-file="+s.pki("ca.crt"), "--cluster-signing-cert-file="+s.pki("ca.crt"), "--cluster-signing-key-file="+s.pki("ca.key"))
	case Scheduler:
		flags = s.client(name)
	case Containerd:
		flags = []string{"--config", s.Slot.State("containerd.toml")}
	case Kubelet:
		flags = []string{
			"--config=" + s.Slot.State("kubelet.yaml"), "--kubeconfig=" + s.kubeconfig(name), "--root-dir=" + s.Slot.State("kubelet"),
			"--hostname-override=" + s.Node, "--node-ip=" + s.Slot.Node(), "--v=1",
		}
	case Proxy:
		flags = []string{"--config=" + s.Slot.State("proxy.yaml"), "--v=1"}
	}
	return append([]string{name}, flags...)
}

// client returns the flags that controller manager and scheduler share. Without the limits of requests, which have larger clusters
// in mind, the controller manager takes some seconds less to begin.
func (s scope) client(name string) []string {
	conf := s.kubeconfig(name)
	return []string{
		"--kubeconfig=" + conf, "--authentication-kubeconfig=" + conf, "--authorization-kubeconfig=" + conf,
		"--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false",
		"--kube-api-qps=1000", "--kube-api-burst=2000",
	}
}

// etcd keeps nothing that must outlive the machine, so it does not wait for the disk.
func (s scope) etcd() []string {
	const client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
	return []string{
		"--name=node", "--data-dir=" + s.Slot.State("etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=node=" + peer,
	}
}

// apiServer listens on all addresses of the network namespace. The endpoint of its Service cannot be a 127 address.
func (s scope) apiServer() []string {
	return []string{
		"--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0", "--secure-port=6443", "--advertise-address=" + s.Slot.Node(),
		"--service-cluster-ip-range=" + s.Slot.Services(), "--allow-privileged=true", "--profiling=false",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--client-ca-file=" + s.pki("ca.crt"),
		"--tls-cert-file=" + s.pki("apiserver.crt"), "--tls-private-key-file=" + s.pki("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-signing-key-file=" + s.pki("sa.key"), "--service-account-key-file=" + s.pki("sa.pub"),
		"--kubelet-client-certificate=" + s.pki("apiserver-kubelet.crt"), "--kubelet-client-key=" + s.pki("apiserver-kubelet.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + s.pki("front.crt"), "--requestheader-allowed-names=front-proxy",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + s.pki("front-client.crt"), "--proxy-client-key-file=" + s.pki("front-client.key"),
	}
}
