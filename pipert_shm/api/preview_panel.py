"""A routine's preview on the dashboard: video by WebRTC where that connects within two seconds, else a JPEG twice a second."""

from __future__ import annotations

import threading
from contextlib import suppress
from html import escape
from urllib.parse import quote

from pipert_shm.api.webrtc import load, webrtc_is_installed

STYLE = """
pipe-preview { display: block; min-height: 16px; }
pipe-preview img, pipe-preview video { width: 100%; border-radius: 8px; display: none; background: #000; }
"""

# The element <pipe-preview>. It asks for nothing while nobody sees it: it is scrolled away, or the page is in the background.
SCRIPT = """<script>
customElements.get('pipe-preview') || customElements.define('pipe-preview', class extends HTMLElement {
  connectedCallback() {
    if (!this.img) {
      this.img = this.appendChild(Object.assign(document.createElement('img'), {alt: this.dataset.name}));
      this.video = this.appendChild(document.createElement('video'));
      Object.assign(this.video, {muted: true, autoplay: true, playsInline: true});
      this.img.onload = () => { this.show(this.img); this.later(500, () => this.ask()); };
      this.img.onerror = () => { this.show(null); this.later(5000, () => this.ask()); };
      this.look = () => this.turn(this.inView);
      this.leave = () => this.turn(false);
    }
    this.observer = new IntersectionObserver(seen => this.turn(seen.at(-1).isIntersecting));
    this.observer.observe(this);
    document.addEventListener('visibilitychange', this.look);
    window.addEventListener('pagehide', this.leave);
  }
  disconnectedCallback() {
    this.observer.disconnect();
    document.removeEventListener('visibilitychange', this.look);
    window.removeEventListener('pagehide', this.leave);
    this.leave();
  }
  turn(inView) {
    this.inView = inView;
    const on = inView && !document.hidden;
    if (on === this.on) return;
    this.on = on;
    on ? this.start() : this.end();
  }
  show(element) {
    for (const one of [this.img, this.video]) one.style.display = one === element ? 'block' : 'none';
  }
  later(ms, act) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.on && act(), ms);
  }
  ask() { this.img.src = this.dataset.src + '/preview.jpg?' + Date.now(); }
  end() {
    clearTimeout(this.timer);
    clearTimeout(this.retry);
    this.img.removeAttribute('src');
    this.hangUp();
  }
  hangUp() {
    const {pc, session} = this;
    this.pc = this.session = null;
    this.video.srcObject = null;
    if (pc) pc.onconnectionstatechange = null;
    const told = session ? fetch(session, {method: 'DELETE', keepalive: true}).catch(() => 0) : Promise.resolve();
    told.then(() => pc && pc.close());
  }
  async start() {
    if (!('webrtc' in this.dataset) || !window.RTCPeerConnection) return this.ask();
    const pc = this.pc = new RTCPeerConnection();
    try {
      await this.connect(pc);
      if (this.pc !== pc) return;
      this.show(this.video);
      this.pause = 0;
    } catch (error) {
      if (this.pc === pc) this.fallBack();
    }
  }
  fallBack() {
    this.hangUp();
    this.ask();
    this.pause = Math.min(2 * (this.pause || 15000), 600000);
    this.retry = setTimeout(() => { clearTimeout(this.timer); this.on && this.start(); }, this.pause);
  }
  async connect(pc) {
    const abort = new AbortController();
    const plays = new Promise((done, fail) => {
      setTimeout(() => fail(new Error('no video within 2 s')), 2000);
      this.video.onplaying = done;
      pc.onconnectionstatechange = () => {
        if (!['disconnected', 'failed', 'closed'].includes(pc.connectionState)) return;
        fail(new Error('lost'));
        if (this.pc === pc) this.fallBack();
      };
    });
    plays.catch(() => abort.abort());
    pc.addTransceiver('video', {direction: 'recvonly'});
    pc.ontrack = event => {
      event.receiver.jitterBufferTarget = 0;
      this.video.srcObject = new MediaStream([event.track]);
    };
    await pc.setLocalDescription();
    if (pc.iceGatheringState !== 'complete')
      await Promise.race([plays, new Promise(done => pc.onicegatheringstatechange = () =>
        pc.iceGatheringState === 'complete' && done())]);
    const answer = await fetch(this.dataset.src + '/webrtc?width=640', {
      method: 'POST', headers: {'Content-Type': 'application/sdp'}, body: pc.localDescription.sdp, signal: abort.signal});
    if (!answer.ok) throw new Error(answer.statusText);
    const session = answer.headers.get('Location');
    if (this.pc !== pc) return void fetch(session, {method: 'DELETE', keepalive: true});
    this.session = session;
    await pc.setRemoteDescription({type: 'answer', sdp: await answer.text()});
    await plays;
  }
});
</script>"""


def panel_of(routine: str) -> str:
    """The preview of a routine, as HTML for a page that has `SCRIPT` and `STYLE`."""
    way = " data-webrtc" if webrtc_is_installed() else ""
    source = escape(f"routines/{quote(routine, safe='')}")
    return f'<pipe-preview data-src="{source}" data-name="preview of {escape(routine)}"{way}></pipe-preview>'


def get_ready() -> None:
    """Loads what previews need, on a thread of its own, so that the first one comes in time."""
    if webrtc_is_installed():
        threading.Thread(target=_load, name="preview-load", daemon=True).start()


def _load() -> None:
    with suppress(ImportError):  # whoever asks for a stream is told
        load()
