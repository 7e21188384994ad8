// Tiny is all that is in the images of the real node's own tests, so that no registry is needed.
//
//	tiny pause            the sandbox of a pod: wait for a signal, reap what is orphaned to it
//	tiny serve            say "hello HOSTNAME IP" on :8000, ready on /ready after READY_AFTER
//	tiny fail WORDS       write the words to stderr and exit with 3
//	tiny ask PATH         write what the API server says to GET PATH, then wait for a signal
//	tiny get URL          write what the URL answers, then wait for a signal
//	tiny note FILE WORDS  append a line to a file, then sleep for NOTE_SLEEP (as a preStop hook)
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	what, words := os.Args[1], os.Args[2:]
	switch what {
	case "pause":
		pause()
	case "serve":
		serve()
	case "fail":
		fmt.Fprintln(os.Stderr, strings.Join(words, " "))
		os.Exit(3)
	case "ask":
		ask(words[0])
		pause()
	case "get":
		answer, err := http.Get(words[0])
		end(err)
		write(answer.Body)
		pause()
	case "note":
		note(words[0], strings.Join(words[1:], " "))
		time.Sleep(duration("NOTE_SLEEP"))
	}
}

func pause() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			return
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}

func serve() {
	host, _ := os.Hostname()
	began, wait := time.Now(), duration("READY_AFTER")
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "hello %s %s", host, os.Getenv("IP"))
	})
	http.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		if time.Since(began) < wait {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go http.ListenAndServe(":8000", nil)
	fmt.Println("listening")
	<-signals
	if file := os.Getenv("NOTES"); file != "" {
		note(file, host+" got SIGTERM")
	}
}

// ask uses what Kubernetes gives to every pod: address, certificate, token.
func ask(path string) {
	const given = "/var/run/secrets/kubernetes.io/serviceaccount/"
	ca, err := os.ReadFile(given + "ca.crt")
	end(err)
	token, err := os.ReadFile(given + "token")
	end(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	at := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	request, err := http.NewRequest("GET", "https://"+at+path, nil)
	end(err)
	request.Header.Set("Authorization", "Bearer "+string(token))
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	answer, err := client.Do(request)
	end(err)
	write(answer.Body)
}

// write ends with a newline: the log of a container shows no line before it is whole.
func write(body io.ReadCloser) {
	defer body.Close()
	io.Copy(os.Stdout, body)
	fmt.Println()
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func note(file, words string) {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	end(err)
	defer f.Close()
	fmt.Fprintln(f, words)
}

func duration(name string) time.Duration {
	d, _ := time.ParseDuration(os.Getenv(name))
	return d
}
