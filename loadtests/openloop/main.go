// Openloop sends requests at the times of a schedule, whether or not earlier ones were answered,
// and counts each latency from the time at which its request was due (Tene's "coordinated omission"
// is what this avoids). Arrivals are a Poisson process, as independent callers make them, or even.
//
//	openloop --protocol grpc --address H:P --path /pkg.Service/Method --body FILE --rate 2000 --seconds 10
//
// The body is sent as it is (gRPC: with its five bytes of length). Every answer is checked: 200 and,
// in gRPC, grpc-status 0. It prints one JSON object, times in seconds. With --record FILE every
// request is kept, too (record.go); SIGTERM then ends the schedule early.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sort"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A sender puts one request on the wire without waiting for anything; what came of it, it tells the
// recorder.
type sender interface {
	send(due time.Time)
	close()
}

// patience is how long the last answers may take after the last request.
const patience = 30 * time.Second

// shot is one request: when it was due, and when it was written.
type shot struct{ due, sent time.Time }

// recorder keeps every latency; there are some 100,000 of them at most.
type recorder struct {
	mu        sync.Mutex
	latencies []float64
	failures  map[string]int
	pending   sync.WaitGroup
	kept      *kept // nil unless every request is to be kept
}

func (r *recorder) answered(one shot, answer []byte) {
	now := time.Now()
	r.mu.Lock()
	r.latencies = append(r.latencies, now.Sub(one.due).Seconds())
	if r.kept != nil {
		r.kept.add(one, now, answer)
	}
	r.mu.Unlock()
	r.pending.Done()
}

func (r *recorder) failed(one shot, why string) {
	r.mu.Lock()
	r.failures[why]++
	if r.kept != nil {
		r.kept.add(one, time.Now(), []byte("failed: "+why))
	}
	r.mu.Unlock()
	r.pending.Done()
}

func main() {
	protocol := flag.String("protocol", "http", "http (HTTP/1.1) or grpc (h2c)")
	address := flag.String("address", "", "host:port")
	path := flag.String("path", "/", "of every request")
	bodyFile := flag.String("body", "", "file that is every request's body")
	contentType := flag.String("type", "application/json", "of an HTTP body")
	rate := flag.Float64("rate", 1000, "requests per second")
	seconds := flag.Float64("seconds", 10, "how long, after the warm-up")
	warmup := flag.Float64("warmup", 1, "seconds at the same rate that do not count")
	connections := flag.Int("connections", 8, "connections (HTTP/1.1: at most so many)")
	even := flag.Bool("even", false, "evenly spaced arrivals instead of a Poisson process")
	burstEvery := flag.Float64("burst-every", 0, "seconds from one burst to the next; 0: no bursts")
	burst := flag.Float64("burst", 0.5, "seconds of a burst")
	burstFactor := flag.Float64("burst-factor", 2.5, "times the rate in a burst")
	seed := flag.Int64("seed", 1, "of the arrivals")
	record := flag.String("record", "", "file for the times and the answer of every request")
	flag.Parse()
	body, err := os.ReadFile(*bodyFile)
	if err != nil {
		fail(err)
	}
	debug.SetGCPercent(-1) // it is over before memory matters, and a collection would be a delay
	records := &recorder{failures: map[string]int{}}
	records.latencies = make([]float64, 0, int(*rate*(*seconds+*warmup)*1.2)+1000)
	if *record != "" {
		records.kept = newKept()
		signal.Notify(stopped, syscall.SIGTERM)
	}
	var out sender
	if *protocol == "grpc" {
		out, err = newH2(*address, *path, body, *connections, records)
	} else {
		out, err = newH1(*address, *path, *contentType, body, *connections, records)
	}
	if err != nil {
		fail(err)
	}
	at := func(now float64) float64 {
		if *burstEvery > 0 && math.Mod(now, *burstEvery) < *burst {
			return *rate * *burstFactor
		}
		return *rate
	}
	gap := func(rng *rand.Rand, now float64) float64 { return rng.ExpFloat64() / at(now) }
	if *even {
		gap = func(_ *rand.Rand, now float64) float64 { return 1 / at(now) }
	}
	rng := rand.New(rand.NewSource(*seed))
	warmed := len(pace(out, records, gap, rng, *warmup))
	records.latencies = records.latencies[:0]
	late := pace(out, records, gap, rng, *seconds)
	out.close()
	if records.kept != nil {
		if err := records.kept.write(*record); err != nil {
			fail(err)
		}
	}
	report(records, warmed, late, *seconds)
}

// stopped ends the schedule early, where somebody may.
var stopped = make(chan os.Signal, 1)

// pace sends for so long, waits for the last answers, and returns how late each was sent.
func pace(out sender, records *recorder, gap func(*rand.Rand, float64) float64, rng *rand.Rand, seconds float64) []float64 {
	runtime.LockOSThread()
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	late := make([]float64, 0, cap(records.latencies))
	begun := time.Now()
	at := 0.0
	for {
		at += gap(rng, at)
		if at >= seconds {
			break
		}
		due := begun.Add(time.Duration(at * 1e9))
		if len(stopped) > 0 {
			break
		}
		sleepUntil(due)
		late = append(late, time.Since(due).Seconds())
		records.pending.Add(1)
		out.send(due)
	}
	runtime.UnlockOSThread()
	lost := time.AfterFunc(patience, func() { fail(errors.New("some requests got no answer")) })
	records.pending.Wait()
	lost.Stop()
	return late
}

// sleepUntil sleeps in the kernel: Go's own timers round up to a millisecond when nothing else runs.
func sleepUntil(due time.Time) {
	for {
		left := time.Until(due)
		if left <= 0 {
			return
		}
		ts := unix.NsecToTimespec(int64(left))
		unix.Nanosleep(&ts, nil)
	}
}

func report(records *recorder, warmed int, late []float64, seconds float64) {
	sort.Float64s(records.latencies)
	sort.Float64s(late)
	answered := len(records.latencies)
	failed := 0
	for _, n := range records.failures {
		failed += n
	}
	out := map[string]any{
		"warmed_up": warmed, "sent": len(late), "answered": answered, "failed": failed, "failures": records.failures,
		"rate_per_s": float64(answered) / seconds,
		"latency_s":  percentiles(records.latencies), "late_s": percentiles(late),
	}
	json.NewEncoder(os.Stdout).Encode(out)
	if failed > 0 {
		os.Exit(1)
	}
}

func percentiles(sorted []float64) map[string]float64 {
	out := map[string]float64{}
	if len(sorted) == 0 {
		return out
	}
	for name, share := range map[string]float64{"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1} {
		rank := int(math.Ceil(share*float64(len(sorted)))) - 1
		out[name] = sorted[rank]
	}
	sum := 0.0
	for _, v := range sorted {
		sum += v
	}
	out["mean"] = sum / float64(len(sorted))
	return out
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "openloop:", err)
	os.Exit(2)
}
