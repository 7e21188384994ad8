// Uneven_replica stands where a model server with a queue would: first come first served before a
// few workers, each of which sleeps for a lognormal time, so that a machine with few cores can run
// many of them. It can be slowed, and it can flap: refuse connections and break those it has for a
// while, again and again. Every answer reports its load in ORCA's format.
//
//	uneven_replica --at 127.0.0.1:9001 --workers 2 --mean 0.05 --slowness 5 --up 3 --down 2
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"math"
	"math/rand"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

var answer = []byte(`{"predictions": [1.0]}`)

type replica struct {
	slots    chan struct{}
	inFlight atomic.Int64
	mu       sync.Mutex
	rng      *rand.Rand
	mean     float64
	sigma    float64
}

func (r *replica) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	io.Copy(io.Discard, request.Body)
	r.inFlight.Add(1)
	left := func() { r.inFlight.Add(-1) }
	select {
	case r.slots <- struct{}{}:
	case <-request.Context().Done():
		left()
		return
	}
	work(request.Context(), r.service())
	<-r.slots
	left()
	w.Header()["Content-Type"] = []string{"application/json"}
	w.Header()["Endpoint-Load-Metrics"] = []string{
		fmt.Sprintf("TEXT named_metrics.in_flight=%d", r.inFlight.Load()),
	}
	w.Write(answer)
}

func work(ctx context.Context, seconds float64) {
	select {
	case <-time.After(time.Duration(seconds * 1e9)):
	case <-ctx.Done():
	}
}

func (r *replica) service() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mean * math.Exp(r.sigma*r.rng.NormFloat64()-r.sigma*r.sigma/2)
}

func main() {
	at := flag.String("at", "", "address")
	workers := flag.Int("workers", 2, "requests at once")
	mean := flag.Float64("mean", 0.05, "seconds of a request")
	sigma := flag.Float64("sigma", 0.5, "deviation of the logarithm of that")
	slowness := flag.Float64("slowness", 1, "times that")
	up := flag.Float64("up", 0, "seconds until it breaks; 0: never")
	down := flag.Float64("down", 2, "seconds until it is back")
	seed := flag.Int64("seed", 1, "of the times")
	flag.Parse()
	runtime.GOMAXPROCS(1) // it shares the machine with what is measured
	served := &replica{
		slots: make(chan struct{}, *workers), rng: rand.New(rand.NewSource(*seed)),
		mean: *mean * *slowness, sigma: *sigma,
	}
	for {
		listener, err := net.Listen("tcp", *at)
		if err != nil {
			log.Fatal(err)
		}
		server := &http.Server{Handler: served}
		if *up == 0 {
			log.Fatal(server.Serve(listener))
		}
		go server.Serve(listener)
		time.Sleep(time.Duration(*up * 1e9))
		server.Close() // listener and connections, at once
		time.Sleep(time.Duration(*down * 1e9))
	}
}
