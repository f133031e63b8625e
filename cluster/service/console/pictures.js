// Thumbnails of enrolled faces. Their object URLs are given back when a view is left or shown anew.

import { Problem, ask, galleryPath } from "./api.js";
import { element } from "./page.js";

export class Pictures {
  #urls = new Set();

  forget() {
    for (const url of this.#urls) URL.revokeObjectURL(url);
    this.#urls.clear();
  }

  // An image of a template, or null where the tenant keeps none.
  async of(gallery, templateId, alt) {
    const query = new URLSearchParams({ template_id: templateId });
    try {
      const picture = await ask("GET", `${galleryPath(gallery)}/thumbnail?${query}`, { accept: "image/jpeg" });
      const url = URL.createObjectURL(picture);
      this.#urls.add(url);
      return element("img", { src: url, alt });
    } catch (error) {
      if (error instanceof Problem && error.status === 404) return null;
      throw error;
    }
  }
}
