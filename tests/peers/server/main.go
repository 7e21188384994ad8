// Server is what our clients are tried against: Go's net/http, HTTP/1.1 and HTTP/2 by prior
// knowledge on one port, or both by ALPN with --cert and --key. It says its address, and goes when
// its input ends.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
)

const maxStreams = 8

var (
	cert    = flag.String("cert", "", "certificate; with it TLS is spoken")
	key     = flag.String("key", "", "its key")
	leaving = make(chan struct{})
	once    sync.Once
)

func main() {
	flag.Parse()
	log.SetOutput(io.Discard) // what is broken off on purpose
	mux := http.NewServeMux()
	streams := &http2.Server{MaxConcurrentStreams: maxStreams}
	server := &http.Server{Handler: h2c.NewHandler(mux, streams)}
	if err := http2.ConfigureServer(server, streams); err != nil {
		panic(err)
	}
	server.RegisterOnShutdown(func() { once.Do(func() { close(leaving) }) })
	mux.HandleFunc("/echo", echo)
	mux.HandleFunc("/bytes/", some)
	mux.HandleFunc("/stream/", some)
	mux.HandleFunc("/break", breakOff)
	mux.HandleFunc("/close", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		fmt.Fprint(w, "closed")
	})
	mux.HandleFunc("/hold", func(w http.ResponseWriter, _ *http.Request) {
		<-leaving
		fmt.Fprint(w, "held")
	})
	mux.HandleFunc("/leave", func(w http.ResponseWriter, _ *http.Request) {
		go server.Shutdown(context.Background())
		<-leaving
		fmt.Fprint(w, "leaving")
	})
	mux.HandleFunc("/refuse", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr())
	if *cert != "" {
		server.TLSConfig = server.TLSConfig.Clone()
		pair, err := tls.LoadX509KeyPair(*cert, *key)
		if err != nil {
			panic(err)
		}
		server.TLSConfig.Certificates = []tls.Certificate{pair}
		go server.ServeTLS(listener, "", "")
	} else {
		go server.Serve(listener)
	}
	io.Copy(io.Discard, os.Stdin)
}

// echo sends pieces back as they come (over HTTP/1.1 when all has come), and a trailer.
func echo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Trailer", "X-Tail")
	var body io.Reader = r.Body
	if r.ProtoMajor == 1 {
		whole, err := io.ReadAll(body)
		if err != nil {
			return
		}
		body = bytes.NewReader(whole)
	}
	buffer := make([]byte, 64<<10)
	for {
		count, err := body.Read(buffer)
		if _, failed := w.Write(buffer[:count]); failed != nil {
			return
		}
		w.(http.Flusher).Flush()
		if err != nil {
			break
		}
	}
	w.Header().Set("X-Tail", "true")
}

// some writes a pattern, with its length said (/bytes/N) or not (/stream/N).
func some(w http.ResponseWriter, r *http.Request) {
	kind := strings.Split(r.URL.Path, "/")
	size, err := strconv.Atoi(kind[2])
	if err != nil {
		panic(err)
	}
	made := make([]byte, size)
	for n := range made {
		made[n] = byte(n)
	}
	if kind[1] == "bytes" {
		w.Header().Set("Content-Length", kind[2])
	} else {
		w.(http.Flusher).Flush()
	}
	w.Write(made)
}

// breakOff answers a part of what it says it will.
func breakOff(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "100")
	fmt.Fprint(w, "a part")
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}
