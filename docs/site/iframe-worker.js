// Search in pages that were opened from disk. Browsers start no worker from file://, so here the worker's script runs
// in a hidden frame, and messages go to and fro as they would with a worker. The theme finds scripts of the frame
// by the name IFrameWorker.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(address) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.documentElement.append(this.frame);
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inside.importScripts = async (...scripts) => {
        for (const src of scripts) await this.load(src);
      };
      this.ready = this.load(address);
    }

    load(src) {
      const script = Object.assign(this.frame.contentDocument.createElement("script"), { src });
      const loaded = new Promise((resolve, reject) => {
        script.addEventListener("load", resolve);
        script.addEventListener("error", reject);
      });
      this.frame.contentDocument.head.append(script);
      return loaded;
    }

    async postMessage(data) {
      await this.ready;
      this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
    }

    terminate() {
      this.frame.remove();
    }
  };
  window.Worker = window.IFrameWorker;
}
