// Package flow watches how new connections to a node's Services spread over their endpoints, while they happen.
//
// A Tracker counts flows by endpoint and by client and says of each interval how even they are, and which clients reached another endpoint
// than before although kube-proxy was to keep them. It counts what it is shown and remembers a bounded number of clients; what it had to
// forget, and what the kernel did not tell, it says. It sees connections, not packets: a long one counts once, when it begins.
//
// Start with Watch, which reads this machine; or with NewTracker.
package flow
