// What the two platforms call things, and why they hold a push back, in words for the page.

const network = ["No network", "The push waits for it."];

export const platforms = {
  ios: {
    a: "an iPhone",
    service: "Apple",
    names: { device: "iPhone in a pocket", quit: "Swiped away", doQuit: "Swipe the app away" },
    quit: "had the app swiped away: iOS starts it for no push until it is opened",
    switches: {
      offline: network,
      low_power: ["Low Power Mode", "iOS puts background work off."],
      no_background: ["Background refresh off", "iOS throws silent pushes away."],
    },
    held: {
      offline: "has no network: Apple keeps the newest push for it",
      "low power": "is in Low Power Mode: iOS puts the push off",
      budget: "has had its two or three wake-ups of this hour: iOS puts the push off",
    },
    dropped: {
      "force-quit": "was swiped away: iOS throws the push away",
      "background refresh off": "has background refresh off: iOS throws the push away",
    },
  },
  android: {
    a: "an Android phone",
    service: "Google",
    names: { device: "Android in a pocket", quit: "Force-stopped", doQuit: "Force-stop the app" },
    quit: "had the app force-stopped: Android starts it for no push until it is opened",
    switches: {
      offline: network,
      doze: ["Doze", "Still and dark: windows an hour apart."],
      low_power: ["Battery saver", "Android puts background work off."],
      no_background: ["Background restricted", "The push waits until it is opened."],
    },
    held: {
      offline: "has no network: Google keeps the push for it",
      doze: "dozes: Android keeps the push for the next window",
      "battery saver": "saves its battery: Android puts the push off",
      "background restricted": "may not work in the background: Android puts the push off",
    },
    dropped: {
      "force-stopped": "was force-stopped: Android throws the push away",
    },
  },
};
